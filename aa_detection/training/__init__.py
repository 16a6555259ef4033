"""What both engines need around their training loops: the images' order, files, accidents."""
