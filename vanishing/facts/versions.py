"""The versions at which the tables were measured."""

JAX = "JAX 0.10.2 and 0.12.0"
FLAX = "Flax 0.12.8 and 0.12.12"
EQUINOX = "Equinox 0.13.8"
HAIKU = "Haiku 0.0.17"
KERAS = "Keras 3.15.1"
OPTAX = "Optax 0.2.8"
TORCH = "PyTorch 2.13.0"
