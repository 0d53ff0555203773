"""Judge a trained model: python eval.py ckpt_path=runs/quickstart/seed_0/best.ckpt."""

from phenokeep.cli import evaluate

if __name__ == "__main__":
    evaluate()
