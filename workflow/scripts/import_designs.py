"""Read a set of external crystals as designs."""

from xtalrl.structures.external import import_designs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    import_designs(
        crystals=snakemake.input.crystals,
        name=snakemake.wildcards.set,
        **snakemake.output,
        path=snakemake.params.path,
        max_sites=snakemake.params.max_sites,
    )
