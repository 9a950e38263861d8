"""Import published reference energies."""

from xtalrl.dft.references import import_references
from xtalrl.workflow import job

with job(snakemake.log[0]):
    import_references(**snakemake.input, **snakemake.output, **snakemake.params)
