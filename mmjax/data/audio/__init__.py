"""Audio: decoding and spectrograms."""
