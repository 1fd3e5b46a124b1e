"""Which attack the network trains against, and which one chooses the best epoch."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "attack",
        "pgd",
        "Attack inside training: pgd; pgd-random or pgd-least_likely, to such a class; or none "
        "for clean training.",
    )
    flags.DEFINE_enum("norm", "linf", ["linf", "l2", "l1"], "Norm of the ball.")
    flags.DEFINE_list(
        "norms",
        [],
        "Several norms to train against, such as linf,l1; in place of --norm, --epsilon and "
        "--step_size.",
    )
    flags.DEFINE_list("epsilons", [], "A radius in pixels for each of --norms, such as 8,3060.")
    flags.DEFINE_enum(
        "norm_combination",
        "random",
        ["random", "biased", "max", "avg"],
        "With --norms: draw a norm for each batch, with equal chances or by how many images each "
        "breaks (biased: E-AT), learn from the worst for each image, or from all.",
    )
    numbers.pixels(
        "epsilon",
        None,
        "Radius of the ball in pixels (0-255); default: 32 for digits, 8 for CIFAR, 4 for "
        "ImageNet.",
    )
    numbers.real(
        "epsilon_warmup_epochs",
        0.0,
        "Epochs in which epsilon and step size of the attack inside training grow from 0 to their "
        "values, linearly from step to step; validation has the whole epsilon throughout.",
        0,
        100_000,
    )
    numbers.whole("attack_steps", 1, "Gradient steps of the attack inside training.", 1, 10_000)
    numbers.pixels(
        "step_size",
        None,
        "Step of the attack inside training, in pixels; default: epsilon up to two steps (one is "
        "FGSM "
        "with random start, as the paper), 2.5 * epsilon / steps for more (Madry).",
    )
    flags.DEFINE_bool("random_start", True, "Start the attack at a random point of the ball.")
    numbers.real(
        "clean_start",
        0.0,
        "Probability that a batch's attack starts at the clean images all the same; the released "
        "training class has 0.2, the paper does not tell.",
        0,
        1,
    )
    flags.DEFINE_enum(
        "attack_batch_norm",
        "inference",
        ["inference", "batch"],
        "Batch-norm mode inside the attack.",
    )
    numbers.whole(
        "validation_steps", 10, "PGD steps on the validation images, each epoch.", 1, 10_000
    )
