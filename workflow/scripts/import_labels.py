"""Import published gaps and energies."""

from xtalrl.dft.labels import import_labels
from xtalrl.workflow import job

with job(snakemake.log[0]):
    import_labels(**snakemake.input, **snakemake.output, **snakemake.params)
