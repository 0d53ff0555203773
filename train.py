"""Train a model: python train.py experiment=NAME (python -m phenokeep.list shows the names)."""

from phenokeep.cli import train

if __name__ == "__main__":
    train()
