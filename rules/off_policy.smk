"""The predictor's predictions for the policies' designs, before any SCF."""


checkpoint fill_designs:
    input:
        assessments=f"{RESULTS}/designs/assessments.parquet",
        crystals=f"{RESULTS}/structures/crystals.parquet",
        external_crystals=external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
    output:
        filled=f"{RESULTS}/designs/crystals.parquet",
        graphs=f"{RESULTS}/designs/graphs.parquet",
        failures=f"{RESULTS}/designs/graph_failures.parquet",
    log:
        f"{RESULTS}/logs/fill_designs.log",
    benchmark:
        f"{RESULTS}/benchmarks/fill_designs.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: 4
    params:
        call=unrecorded("xtalrl.structures.filled.fill_skeletons"),
        cache=unrecorded(CACHE),
        workers=threads_of_job,
    message:
        "Building the graphs of the designs on {threads} cores"
    script:
        "../workflow/scripts/call.py"


checkpoint predict_policies:
    input:
        graphs=f"{RESULTS}/designs/graphs.parquet",
        predictor=of_project(f"resources/pretrained/{PREDICTOR_FILE}"),
    output:
        predictions=PREDICTIONS_AT_TARGETS,
    log:
        f"{RESULTS}/logs/predict_policies.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_policies.tsv"
    conda:
        "../envs/train.yaml"
    params:
        call=unrecorded("xtalrl.rl.predictor.predict_at_targets"),
        targets_ev=SETTINGS["targets_ev"],
        window_ev=cfg.evaluation.window_ev,
    message:
        "Predicting the designs of the policies"
    script:
        "../workflow/scripts/call.py"
