"""Which ingredient of UBN does the work, and what else would (docs/ablation_study.md)."""
