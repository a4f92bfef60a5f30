"""What in UBN does the work, and what else could be used instead: four domains, one trainer.

`norms` and `methods` say what is compared, `spiral`, `digits` and `depth` on what, `training` how,
`plan` in which runs, and `study` compares their records. docs/ablation_study.md has the plan.
"""
