"""How the network learns from the attack's images."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "method",
        "pgd_at",
        "Training method: pgd_at (with --attack_steps=1 FGSM with random start), trades, mart or "
        "free.",
    )
    numbers.real(
        "beta", None, "Weight of the divergence; default: 6 for trades, 5 for mart.", 0, 1_000
    )
    numbers.whole(
        "replays", None, "Times that free trains on a batch in a row; default: 8.", 1, 1_000
    )
    numbers.real(
        "awp_gamma",
        0.0,
        "Relative size of the adversarial weight perturbation, such as 0.005; 0: off. With "
        "--gradient_accumulation each piece has a perturbation of its own, found on its images "
        "alone.",
        0,
        1,
    )
    flags.DEFINE_string(
        "attack_gradient",
        None,
        "Function whose derivative the training attack sees in place of the activation's own, "
        "such as "
        "parametric_softplus:alpha=10; default: the activation's.",
    )
    flags.DEFINE_string(
        "update_gradient", None, "Likewise for the weight update; default: the activation's."
    )
    flags.DEFINE_enum(
        "on_overfitting",
        "warn",
        ["warn", "stop", "raise"],
        "What to do when robust validation accuracy collapses while the training attack keeps "
        "losing.",
    )
