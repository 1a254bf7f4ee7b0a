"""One HTML file of a training run: curves, before and after, and every test sample with its clip."""
