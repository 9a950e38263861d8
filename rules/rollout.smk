"""Greedy designs on the validation skeletons, and what their compositions tell."""


rule rollout_policy:
    input:
        policy=f"{RESULTS}/policies/{{policy}}/seed{{seed}}/policy.json",
        weights=f"{RESULTS}/policies/{{policy}}/seed{{seed}}/weights.safetensors",
        graphs=f"{RESULTS}/structures/graphs.parquet",
        trajectories=f"{RESULTS}/trajectories.parquet",
    output:
        designs=f"{RESULTS}/designs/{{policy}}/seed{{seed}}.parquet",
    log:
        f"{RESULTS}/logs/rollout_policy.{{policy}}.seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/rollout_policy.{{policy}}.seed{{seed}}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        device=cfg.training.device,
    message:
        "Designing with {wildcards.policy}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/rollout_policy.py"


rule assess_designs:
    input:
        designs=policy_runs(f"{RESULTS}/designs/{{policy}}/seed{{seed}}.parquet"),
        crystals=f"{RESULTS}/structures/crystals.parquet",
        formulas=known_formulas,
    output:
        assessments=f"{RESULTS}/designs/assessments.parquet",
    log:
        f"{RESULTS}/logs/assess_designs.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_designs.tsv"
    conda:
        "../envs/workflow.yaml"
    message:
        "Judging the compositions of the designs"
    script:
        "../workflow/scripts/assess_designs.py"
