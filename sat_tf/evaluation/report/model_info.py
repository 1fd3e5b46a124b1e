"""RobustBench's `model_info`, of a network and its report."""

from collections.abc import Mapping
from typing import Any

from sat_tf.attacks import autoattack


def model_info(found: Mapping[str, Any] | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns RobustBench's `model_info`; what only the authors know is left empty.

    `autoattack_acc` is filled where the four attacks of `standard` ran, in their order, alone.

    Args:
      found: the content of `report.json`; None leaves the figures empty.
      about: what the run says about itself; model and dataset are used.

    Source: the files below `model_info/` of RobustBench/robustbench.
    """
    info = {
        "link": "",
        "name": about.get("model") or (found or {}).get("network", {}).get("name"),
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": about.get("dataset"),
        "venue": "",
        "architecture": about.get("model") or "",
        "eps": None,
        "clean_acc": None,
        "reported": None,
        "autoattack_acc": None,
        "footnote": "",
        "unreliable": False,
    }
    if found is None:
        return info
    names = tuple(attack["name"] for attack in found["attacks"])
    ball = found["attacks"][0]["settings"]
    robust = f"{100 * found['adversarial_accuracy']:.2f}"
    return info | {
        "eps": f"{ball['epsilon']:g}/255"
        if ball["norm"] == "linf"
        else f"{ball['epsilon'] / 255:.4g}",
        "clean_acc": f"{100 * found['clean_accuracy']:.2f}",
        "reported": robust,
        "autoattack_acc": robust if names == autoattack.members("standard") else None,
        "footnote": f"{found['num_images']} images, sat_tf {found['versions']['sat_tf']}",
        "unreliable": any(check["passed"] is False for check in found["checks"]),
    }
