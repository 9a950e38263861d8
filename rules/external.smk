"""Crystals that others designed, as sets of designs next to those of the policies (`external` in the config)."""


checkpoint import_designs:
    input:
        crystals=f"{RESULTS}/structures/crystals.parquet",
    output:
        designs=f"{RESULTS}/external/{{set}}/designs.parquet",
        external_crystals=f"{RESULTS}/external/{{set}}/crystals.parquet",
        rejected=f"{RESULTS}/external/{{set}}/rejected.parquet",
    log:
        f"{RESULTS}/logs/import_designs.{{set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/import_designs.{{set}}.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        external_state,
        call=unrecorded("xtalrl.structures.external.import_designs"),
        name=of_wildcard("set"),
        path=external_path,
        max_sites=cfg.structures.max_sites,
    message:
        "Reading the external crystals {wildcards.set} from {params.path}"
    script:
        "../workflow/scripts/call.py"
