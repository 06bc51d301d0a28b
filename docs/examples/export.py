"""Write a network as ONNX and as a torch.export program."""

import onnxruntime
import torch

from efficient_kan import KAN

torch.manual_seed(0)
kan = KAN([4, 8, 3]).eval()
x = torch.rand(16, 4) * 2 - 1
more = torch.rand(100, 4) * 2 - 1  # another number of samples
batch = ({0: torch.export.Dim("batch")},)  # any number of them

program = torch.export.export(kan, (x,), dynamic_shapes=batch)
torch.export.save(program, "kan.pt2")
loaded = torch.export.load("kan.pt2").module()
assert torch.allclose(loaded(more), kan(more), atol=1e-5)

torch.onnx.export(
    kan, (x,), "kan.onnx", input_names=["x"], dynamic_shapes=batch, dynamo=True
)
session = onnxruntime.InferenceSession("kan.onnx")
(y,) = session.run(None, {"x": more.numpy()})
difference = (torch.from_numpy(y) - kan(more)).abs().max().item()
print(f"largest difference: {difference:.1e}")
assert difference < 1e-5
