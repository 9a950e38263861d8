"""Trajectories: the labelled crystals, filled in breadth-first order."""


checkpoint build_trajectories:
    input:
        graphs=f"{RESULTS}/structures/graphs.parquet",
        labels=f"{RESULTS}/labels.parquet",
    output:
        trajectories=f"{RESULTS}/trajectories.parquet",
    log:
        f"{RESULTS}/logs/build_trajectories.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_trajectories.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        call=unrecorded("xtalrl.rl.trajectories.build_trajectories"),
        metals=cfg.structures.metals,
        per_crystal=cfg.trajectories.per_crystal,
        disconnected=cfg.trajectories.disconnected,
        seed=cfg.trajectories.seed,
        ties=cfg.ties,
    message:
        "Building breadth-first trajectories"
    script:
        "../workflow/scripts/call.py"
