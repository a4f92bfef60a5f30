"""UBN in somebody else's model: torchvision's resnet18, converted, trained a little, and reverted.

Random images stand for data, so that nothing is downloaded; torchvision is needed.

    python examples/convert_torchvision.py
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ubnlib import convert_ubn, revert_ubn, ubn_forward

try:
    from torchvision.models import resnet18
except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
    sys.exit(
        f"This example needs torchvision in the release and build that match torch "
        f"{torch.__version__}, as torchvision 0.28 matches torch 2.13, and importing it failed: "
        f"{error}"
    )


def main() -> None:
    """Convert, train, save, revert, load strictly, compare."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # made before, still works
    before = [parameter.clone() for parameter in model.parameters()]

    convert_ubn(model)
    converted = [m for m in model.modules() if type(m).__name__ == "UnsupervisedBatchNorm2d"]
    print(f"{len(converted)} layers converted, {type(model).__name__} as before")

    labeled, target = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
    for step in range(3):
        unlabeled = torch.randn(16, 3, 64, 64)
        loss = F.cross_entropy(ubn_forward(model, labeled, unlabeled), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.3f}")
    moved = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    print(f"the optimizer moved {moved} of {len(before)} parameters")

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "resnet18.pt"
        torch.save(model.state_dict(), checkpoint)
        plain = resnet18(weights=None, num_classes=10)
        plain.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)
    print(f"a plain resnet18 loaded the {len(plain.state_dict())} entries of the checkpoint")

    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        outputs = model.eval()(images)
        reverted = revert_ubn(model)(images)
        loaded = plain.eval()(images)
    left = sum(type(m) is not nn.BatchNorm2d for m in converted)
    print(f"reverted: {left} UBN layers are left")
    for name, other in [("reverted", reverted), ("plain", loaded)]:
        gap = (outputs - other).abs().max().item()
        print(f"in evaluation, the {name} model differs by at most {gap:.1e}")


if __name__ == "__main__":
    main()
