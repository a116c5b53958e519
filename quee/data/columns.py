"""Columns of Parquet files of images, as they are usually called."""

IMAGES = ("image", "img")
