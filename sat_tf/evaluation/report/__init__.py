"""What an evaluation found: numbers, tables, pictures and the files that hold them."""

from sat_tf.evaluation.report.report import UNIT, Report

__all__ = ["UNIT", "Report"]
