"""Write a network as ONNX and as a torch.export program."""

import io

import torch

from efficient_kan import KAN

torch.manual_seed(0)
kan = KAN([4, 8, 3]).eval()
x = torch.rand(16, 4) * 2 - 1

program = torch.export.export(
    kan, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)
)
more = torch.rand(100, 4) * 2 - 1
assert torch.allclose(program.module()(more), kan(more), atol=1e-5)

file = io.BytesIO()
torch.export.save(program, file)
print(f"{len(file.getvalue())} bytes")
