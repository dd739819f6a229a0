"""How a teacher knows that its driver lives. In a module of its own, so that the actor's process loads nothing else."""

LIFELINE_NAMESPACE = "coffey"


class Lifeline:
    """An actor that ends with the driver that made it."""
