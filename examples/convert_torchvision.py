"""UBN in somebody else's model: torchvision's resnet18, converted, trained a little, and reverted.

Random images stand for data, so that nothing is downloaded; torchvision is needed.

    python examples/convert_torchvision.py
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

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
    """Convert, train, save, load into a plain model, revert, compare."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # made before, still works
    before = [parameter.clone() for parameter in model.parameters()]

    convert_ubn(model)
    names = [type(layer).__name__ for layer in model.modules()]
    print(f"{names.count('UnsupervisedBatchNorm2d')} layers converted, {names[0]} as before")

    labeled, target = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(ubn_forward(model, labeled, torch.randn(16, 3, 64, 64)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(f"{loss.item():.3f}")
    print("loss", *losses)
    moved = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    print(f"the optimizer moved {moved} of {len(before)} parameters")

    plain = resnet18(weights=None, num_classes=10)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "resnet18.pt"
        torch.save(model.state_dict(), checkpoint)
        plain.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)
    with torch.no_grad():
        outputs = model.eval()(labeled)
        for name, other in [("a plain", plain.eval()), ("the reverted", revert_ubn(model))]:
            gap = (outputs - other(labeled)).abs().max().item()
            print(f"in evaluation, {name} resnet18 differs by at most {gap:.1e}")


if __name__ == "__main__":
    main()
