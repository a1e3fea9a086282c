"""Steps from files of any layout to the pairs table: reading, columns, setting rows aside, images, features."""
