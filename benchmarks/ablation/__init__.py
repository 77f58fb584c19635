"""Does layout refinement put things in the right places? The ablation: runs, measures, tables."""
