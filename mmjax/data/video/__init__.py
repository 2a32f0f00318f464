"""Video: decoding of frames, and the clips that models see."""
