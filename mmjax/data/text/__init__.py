"""Texts: tokenizers, vocabularies, truncation, answers."""
