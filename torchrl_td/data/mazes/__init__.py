"""PointMaze and Maze2D data, recorded by a scripted controller."""
