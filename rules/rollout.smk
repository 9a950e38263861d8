"""Designs on the validation skeletons, and the assessment of their compositions."""


rule rollout_policy:
    input:
        trained_policy,
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
        call=unrecorded("xtalrl.rl.rollout.rollout_policy"),
        folder=policy_folder,
        settings=rollout_settings,
        target_ev=target_gap,
        device=unrecorded(cfg.training.device),
    message:
        "Designing with {wildcards.policy}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/call.py"


checkpoint assess_designs:
    input:
        designs=[
            *policy_runs(f"{RESULTS}/designs/{{policy}}/seed{{seed}}.parquet"),
            *external_sets(f"{RESULTS}/external/{{set}}/designs.parquet"),
        ],
        external_crystals=external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
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
    params:
        call=unrecorded("xtalrl.metrics.composition.assess_designs"),
    message:
        "Judging the compositions of the designs"
    script:
        "../workflow/scripts/call.py"
