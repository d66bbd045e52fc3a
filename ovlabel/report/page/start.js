"use strict";
report.start();
