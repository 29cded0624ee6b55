"""The training side of stablesig: puts a key into the weights of a diffusion decoder (extra `train`).

Importing this package imports nothing else: torch and diffusers load when one of its modules is imported.
"""
