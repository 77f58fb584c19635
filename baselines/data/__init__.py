"""Captioned images: sources, vocabulary, scan and batches."""
