"""Compute formation energies and collect gaps."""

from xtalrl.dft.labels import label_crystals
from xtalrl.workflow import job

with job(snakemake.log[0]):
    label_crystals(**snakemake.input, **snakemake.output)
