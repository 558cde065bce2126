"""The data sets: COCO, Open Images and the miniature world, downloaded, checked and read in one interface."""
