from ttune.cli import main

main()
