"""Images from files, folders and samples."""
