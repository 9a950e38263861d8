"""The designs of snapshots of the policies in training (`training.snapshots`), for the learning curve."""

# All snapshots of the policies that learn, then the finished ones; the steps follow.
CURVE = {
    **DESIGN_RESULTS,
    "snapshots": of_snapshots(f"{RESULTS}/learning_curve/{{step}}/evaluation.parquet"),
}
CURVE_PARAMS = {
    **SAMPLING,
    "policies": {name: spec.to_dict() for name, spec in LEARNED_POLICIES.items()},
    "steps": [*cfg.training.snapshot_steps, cfg.training.steps],
    "window_ev": cfg.evaluation.window_ev,
}


localrules:
    make_designs_over_training,
    make_learning_curve,


rule rollout_snapshot:
    input:
        unpack(snapshot_of_policy),
        graphs=f"{RESULTS}/structures/graphs.parquet",
        trajectories=f"{RESULTS}/trajectories.parquet",
    output:
        designs=f"{RESULTS}/learning_curve/{{step}}/designs/{{policy}}/seed{{seed}}.parquet",
    log:
        f"{RESULTS}/logs/rollout_snapshot.{{policy}}.seed{{seed}}.{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/rollout_snapshot.{{policy}}.seed{{seed}}.{{step}}.tsv"
    conda:
        "../envs/train.yaml"
    params:
        device=cfg.training.device,
        settings=ROLLOUT,
        target_ev=target_gap,
    message:
        "Designing with {wildcards.policy}, seed {wildcards.seed}, as it was at step {wildcards.step}"
    script:
        "../workflow/scripts/rollout_policy.py"


rule assess_snapshots:
    input:
        designs=expand(
            f"{RESULTS}/learning_curve/{{step}}/designs/{{policy}}/seed{{seed}}.parquet",
            policy=LEARNED_POLICIES,
            seed=cfg.policies.seeds,
            allow_missing=True,
        ),
        external_crystals=[],
        crystals=f"{RESULTS}/structures/crystals.parquet",
        formulas=known_formulas,
    output:
        assessments=f"{RESULTS}/learning_curve/{{step}}/assessments.parquet",
    log:
        f"{RESULTS}/logs/assess_snapshots.{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_snapshots.{{step}}.tsv"
    conda:
        "../envs/workflow.yaml"
    message:
        "Judging the compositions of the designs of step {wildcards.step}"
    script:
        "../workflow/scripts/assess_designs.py"


rule evaluate_snapshots:
    input:
        assessments=f"{RESULTS}/learning_curve/{{step}}/assessments.parquet",
        outcomes=f"{RESULTS}/evaluation/outcomes.parquet",
        references=reference_energies,
        labels=true_labels,
    output:
        evaluation=f"{RESULTS}/learning_curve/{{step}}/evaluation.parquet",
    log:
        f"{RESULTS}/logs/evaluate_snapshots.{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_snapshots.{{step}}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        of_snapshot=True,
    message:
        "Looking up the DFT properties of the designs of step {wildcards.step}"
    script:
        "../workflow/scripts/evaluate_designs.py"


rule make_designs_over_training:
    input:
        **CURVE,
    output:
        csv=report(
            f"{RESULTS}/tables/designs_over_training.csv",
            caption="../workflow/report/designs_over_training.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/designs_over_training.md",
        latex=f"{RESULTS}/tables/designs_over_training.tex",
    log:
        f"{RESULTS}/logs/make_designs_over_training.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_designs_over_training.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **CURVE_PARAMS,
    message:
        "Making the table of designs over training"
    script:
        "../workflow/scripts/make_designs_over_training.py"


rule make_learning_curve:
    input:
        **CURVE,
    output:
        png=report(
            f"{RESULTS}/figures/learning_curve.png",
            caption="../workflow/report/learning_curve.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/learning_curve.pdf",
        csv=f"{RESULTS}/figures/learning_curve.csv",
    log:
        f"{RESULTS}/logs/make_learning_curve.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_learning_curve.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **CURVE_PARAMS,
    message:
        "Drawing the learning curve of the designs"
    script:
        "../workflow/scripts/make_learning_curve.py"
