"""Measuring a trained model: suites of scores, each with a manifest of what was measured."""

from vilg.evaluation.suites import SUITES, EvaluationError, evaluate

__all__ = ["SUITES", "EvaluationError", "evaluate"]
