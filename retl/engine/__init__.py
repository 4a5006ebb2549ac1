"""From rows to changes: values in canonical form, the snapshot, the diff and its guards."""
