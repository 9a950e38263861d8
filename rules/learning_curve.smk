"""The designs of snapshots of the policies in training (`training.snapshots`), for the learning curve."""


rule rollout_snapshot:
    input:
        snapshot_of_policy,
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
        call=unrecorded("xtalrl.rl.rollout.rollout_policy"),
        folder=policy_folder,
        snapshot=of_wildcard("step", int),
        settings=rollout_settings,
        target_ev=target_gap,
        device=unrecorded(cfg.training.device),
    message:
        "Designing with {wildcards.policy}, seed {wildcards.seed}, as it was at step {wildcards.step}"
    script:
        "../workflow/scripts/call.py"


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
    params:
        call=unrecorded("xtalrl.metrics.composition.assess_designs"),
    message:
        "Judging the compositions of the designs of step {wildcards.step}"
    script:
        "../workflow/scripts/call.py"


use rule sample_designs as sample_snapshots with:
    input:
        assessments=f"{RESULTS}/learning_curve/{{step}}/assessments.parquet",
    output:
        sample=f"{RESULTS}/learning_curve/{{step}}/sample.parquet",
    log:
        f"{RESULTS}/logs/sample_snapshots.{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample_snapshots.{{step}}.tsv"
    message:
        "Drawing the skeletons whose designs are computed, of step {wildcards.step}"


rule evaluate_snapshots:
    input:
        assessments=computed_designs(f"{RESULTS}/learning_curve/{{step}}"),
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
        call=unrecorded("xtalrl.metrics.evaluation.evaluate_designs"),
        of_snapshot=True,
    message:
        "Looking up the DFT properties of the designs of step {wildcards.step}"
    script:
        "../workflow/scripts/call.py"
