"""One training job per policy and seed."""


rule train_policy:
    input:
        graphs=f"{RESULTS}/structures/graphs.parquet",
        trajectories=f"{RESULTS}/trajectories.parquet",
    output:
        policy=f"{RESULTS}/policies/{{policy}}/seed{{seed}}/policy.json",
        weights=f"{RESULTS}/policies/{{policy}}/seed{{seed}}/weights.safetensors",
        log=f"{RESULTS}/policies/{{policy}}/seed{{seed}}/training.csv",
    log:
        f"{RESULTS}/logs/train_policy.{{policy}}.seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_policy.{{policy}}.seed{{seed}}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 4
    params:
        spec=policy_spec,
        training=cfg.training.model_dump(),
    message:
        "Training {wildcards.policy}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/train_policy.py"
