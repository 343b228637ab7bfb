"""The autoencoder: variants, layers, initial weights, model folders."""
