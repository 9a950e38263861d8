"""Training: one job per policy and seed or, where that is faster, one job per seed for all policies together; also the shipped policies."""

TRAINED = "all" if TRAIN_TOGETHER else "{policy}"


rule train_policy:
    input:
        graphs=f"{RESULTS}/structures/graphs.parquet",
        trajectories=f"{RESULTS}/trajectories.parquet",
    output:
        of_trained("weights.safetensors"),
        of_trained("training.csv"),
        of_snapshots(of_trained("snapshots/{step}.safetensors")),
        policies=of_trained("policy.json"),
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
        # The settings that change what is learned.
        training_settings,
        call=unrecorded("xtalrl.rl.training.train_job"),
        specs=trained_specs,
        settings=unrecorded(config["training"]),
        seed=of_wildcard("seed", int),
        threads=threads_of_job,
    message:
        f"Training {'all policies' if TRAIN_TOGETHER else '{wildcards.policy}'}, seed {{wildcards.seed}}"
    script:
        "../workflow/scripts/call.py"


rule take_pretrained:
    input:
        of_project("resources/pretrained/{pretrained}/policy.json"),
        of_project("resources/pretrained/{pretrained}/weights.safetensors"),
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
    params:
        call=unrecorded("xtalrl.rl.pretrained.take_pretrained"),
        name=of_wildcard("pretrained"),
    message:
        "Taking the policy {wildcards.pretrained} that ships with xtalrl"
    script:
        "../workflow/scripts/call.py"
