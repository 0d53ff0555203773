"""Restore a plate, or predict its stains: python predict.py ckpt_path=runs/quickstart/seed_0/best.ckpt plate=PLATE."""

from phenokeep.cli import predict

if __name__ == "__main__":
    predict()
