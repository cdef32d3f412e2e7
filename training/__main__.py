"""python -m training"""

from training.command_line import main

main()
