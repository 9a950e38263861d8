"""Training: a job per policy and seed, or a job per seed that trains all policies together where that pays; and the shipped policies."""

TRAINED = "all" if TRAIN_TOGETHER else "{policy}"


rule train_policy:
    input:
        graphs=f"{RESULTS}/structures/graphs.parquet",
        trajectories=f"{RESULTS}/trajectories.parquet",
    output:
        policies=of_trained("policy.json"),
        weights=of_trained("weights.safetensors"),
        logs=of_trained("training.csv"),
        snapshots=of_snapshots(of_trained("snapshots/{step}.safetensors")),
    log:
        f"{RESULTS}/logs/train_policy.{TRAINED}.seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_policy.{TRAINED}.seed{{seed}}.tsv"
    wildcard_constraints:
        policy="|".join(TRAINED_POLICIES) or "none",
    conda:
        "../envs/train.yaml"
    threads: 4
    params:
        specs=trained_specs,
        training=training_settings,
    message:
        f"Training {'all policies' if TRAIN_TOGETHER else '{wildcards.policy}'}, seed {{wildcards.seed}}"
    script:
        "../workflow/scripts/train_policy.py"


rule take_pretrained:
    output:
        policy=f"{RESULTS}/policies/rvs-{{pretrained}}/seed{{seed}}/policy.json",
        weights=f"{RESULTS}/policies/rvs-{{pretrained}}/seed{{seed}}/weights.safetensors",
    log:
        f"{RESULTS}/logs/take_pretrained.{{pretrained}}.seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/take_pretrained.{{pretrained}}.seed{{seed}}.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    message:
        "Taking the policy {wildcards.pretrained} that ships with xtalrl"
    script:
        "../workflow/scripts/take_pretrained.py"
