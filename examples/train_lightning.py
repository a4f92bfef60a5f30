"""UBN in a LightningModule: the digits of classifier.py, in one process or in several.

python examples/train_lightning.py --devices 2
"""

import argparse
import sys
import tempfile

import torch
import torch.nn.functional as F
from classifier import LABELED_BATCH, UNLABELED_BATCH, digits, endless, make_net, shuffled
from torch import Tensor
from torch.utils.data import DataLoader

from ubnlib import convert_ubn, ubn_forward

try:
    import lightning
    from lightning.pytorch.utilities import CombinedLoader
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
    sys.exit(f"This example needs lightning (pip install lightning): {error}")


class Classifier(lightning.LightningModule):
    """A classifier of digits that normalizes by labeled and unlabeled rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convert_ubn(make_net())

    def training_step(self, batch: dict, index: int) -> Tensor:
        """Return the loss of the labeled rows."""
        images, labels = batch["labeled"]
        output = ubn_forward(self.net, images, batch["unlabeled"])
        return F.cross_entropy(output, labels)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Log the accuracy, by the moving averages."""
        images, labels = batch
        right = (self.net(images).argmax(1) == labels).float().mean()
        self.log("accuracy", right, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    """Train, and say whether the processes share their statistics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1, help="processes (default: 1)")
    devices = parser.parse_args().devices
    torch.set_num_threads(1)
    lightning.seed_everything(0)
    module = Classifier()
    labeled, unlabeled, test = digits(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            accelerator="auto",
            max_epochs=10,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # Lightning splits the labeled rows over the processes; the endless side has another seed
        # in each instead.
        loaders = {
            "labeled": shuffled(labeled, LABELED_BATCH // devices, seed=0),
            "unlabeled": endless(shuffled(unlabeled, UNLABELED_BATCH, seed=trainer.global_rank)),
        }
        trainer.fit(module, CombinedLoader(loaders, "min_size"), DataLoader(test, 125))

    last = module.net[1].last_step[0].union
    mine = torch.cat([last.mean, last.var])
    every = trainer.strategy.all_gather(mine).view(devices, -1)
    gap = (every - mine).abs().max().item()
    if trainer.is_global_zero:
        accuracy = trainer.callback_metrics["accuracy"].item()
        steps = f"{trainer.global_step} steps of {devices} process(es)"
        print(f"test accuracy {accuracy:.2f} after {steps}", flush=True)
        agree = "agree" if gap < 1e-6 else "DO NOT AGREE"
        print(f"the last statistics {agree}: they differ by at most {gap:.1e}", flush=True)


if __name__ == "__main__":
    main()
