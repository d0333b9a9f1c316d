<?php usleep(20000);
