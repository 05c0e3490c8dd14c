"""Problems to a labelled folder, resumable."""
