"""Restore the images of a plate: python predict.py ckpt_path=runs/quickstart/seed_0/best.ckpt plate=path/to/plate."""

from phenokeep.cli import predict

if __name__ == "__main__":
    predict()
