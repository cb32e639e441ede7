"""The classes of this trainer's models: a checkpoint can be loaded only where they can be imported."""
