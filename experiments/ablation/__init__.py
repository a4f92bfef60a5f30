"""What in UBN does the work, and what else could be used instead: four domains, one trainer.

`norms` and `methods` say what is compared, `domains` on what, `train` how, `runs` in which runs,
and `analysis` compares their records. docs/ablation_study.md has the plan; notebook 4.
"""
