"""Counting instructions: code written out by hand, whose loops and ways are known."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

# Straight code of 2; a loop of 4 or, where a branch is taken, 3; in it one of 3 with a product; one instruction at the end.
CODE = """
.text.kernel:
        /*0000*/                   MOV R1, R2 ;
        /*0010*/                   MOV R1, R2 ;
.L_x_0:
        /*0020*/                   MUFU.RCP R4, R4 ;
.L_x_1:
        /*0030*/                   FADD R4, R4, 1 ;
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
        /*0060*/              @!P1 BRA `(.L_x_2) ;
        /*0070*/                   MUFU.EX2 R4, R4 ;
.L_x_2:
        /*0080*/               @P2 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
"""
DOT = 2 * 64 * 128 * 16


def test_loops_and_ways() -> None:
    from efficient_kan.kernels.cuda import sass

    code = sass.loops(CODE, 4, "half")
    (outer,) = code.inner
    (inner,) = outer.inner
    assert (outer.shortest, outer.longest, outer.functions, outer.exponentials) == (3, 4, 2, 1)
    assert (inner.longest, inner.flop, outer.flop, code.flop) == (3, DOT, 0, 0)
    assert code.longest == 4  # with the branch to itself at the end
    assert outer.instructions(9, DOT) == 4 + 9 * 3
    assert outer.instructions(9, DOT, longest=False) == 3 + 9 * 3


def test_products_of_several_warpgroups_and_of_warps() -> None:
    from efficient_kan.kernels.cuda import sass

    assert sass.loops(CODE, 8, "half").inner[0].inner[0].flop == 2 * DOT
    warp = CODE.replace("HGMMA.64x128x16.F32.BF16", "HMMA.16816.F32.BF16")
    assert sass.loops(warp, 4, "half").inner[0].inner[0].flop == 4 * 2 * 16 * 8 * 16
    plain = CODE.replace("HGMMA.64x128x16.F32.BF16", "FFMA.FTZ")
    assert sass.loops(plain, 4, "float32").inner[0].inner[0].flop == 2 * 4 * 32


def test_the_share_of_peak() -> None:
    from efficient_kan.kernels.cuda import sass

    # 4 warps on 4 schedulers: 100 clocks of instructions, 64 of products.
    assert sass.share(100, 4, 64 * 4096, 4096) == pytest.approx(0.64)
    assert sass.share(10, 4, 64 * 4096, 4096) == 1.0
